"""mlflow.langchain.autolog: chains, tools, retrievers, agents of LangGraph."""

import asyncio
import contextlib

import mlflow

from tests.mlflow_api.registry import program

NEEDS = ("langchain", "langchain_openai")


@contextlib.contextmanager
def logged(stage, **options):
    """A chat model whose calls are traced by LangChain's callbacks."""
    from langchain_openai import ChatOpenAI

    mlflow.langchain.autolog()
    try:
        yield ChatOpenAI(
            model=options.pop("model", "gpt-4o"),
            base_url=f"{stage.models_url}/v1",
            api_key="none",
            max_retries=0,
            timeout=120,
            **options,
        )
    finally:
        mlflow.langchain.autolog(disable=True)


def prompt():
    from langchain_core.prompts import ChatPromptTemplate

    return ChatPromptTemplate.from_messages([("system", "be brief"), ("user", "{question}")])


def parser():
    from langchain_core.output_parsers import StrOutputParser

    return StrOutputParser()


def add_tool():
    from langchain_core.tools import tool

    @tool
    def add(a: int, b: int) -> int:
        """Adds two numbers."""
        with mlflow.start_span("inside the tool"):
            return a + b

    return add


@program(needs=NEEDS)
def langchain_chain(stage):
    with logged(stage, temperature=0) as model:
        chain = prompt() | model | parser()
        first = chain.invoke({"question": "two and three?"})
        with mlflow.start_span("root"):
            chain.invoke({"question": "and again?"})
    return first


@program(needs=NEEDS)
def langchain_streamed_and_batched(stage):
    with logged(stage) as model:
        chain = prompt() | model | parser()
        text = "".join(chain.stream({"question": "in pieces?"}))
        batch = chain.batch([{"question": "first"}, {"question": "second"}], {"max_concurrency": 1})
    return [text, batch]


@program(needs=NEEDS)
def langchain_async(stage):
    with logged(stage) as model:
        chain = prompt() | model | parser()

        async def main():
            answer = await chain.ainvoke({"question": "two and three?"})
            pieces = [piece async for piece in chain.astream({"question": "in pieces?"})]
            return answer, "".join(pieces)

        return asyncio.run(main())


@program(needs=NEEDS)
def langchain_error(stage):
    with logged(stage, model="broken") as model:
        chain = prompt() | model | parser()
        try:
            chain.invoke({"question": "anything"})
        except Exception as error:
            return type(error).__name__


@program(needs=NEEDS)
def langchain_tool(stage):
    with logged(stage):
        return add_tool().invoke({"a": 2, "b": 3})


@program(needs=NEEDS)
def langchain_retriever(stage):
    from langchain_core.documents import Document
    from langchain_core.retrievers import BaseRetriever
    from langchain_core.runnables import RunnableLambda, RunnablePassthrough

    class Shelf(BaseRetriever):
        def _get_relevant_documents(self, query, *, run_manager):
            return [Document(page_content=f"about {query}", metadata={"doc_uri": "a/b"}, id="1")]

    with logged(stage) as model:
        joined = RunnableLambda(lambda found: found[0].page_content)
        chain = (
            {"question": Shelf() | joined}
            | RunnablePassthrough.assign(length=lambda given: len(given["question"]))
            | prompt()
            | model
            | parser()
        )
        return chain.invoke("the sea")


@program(needs=(*NEEDS, "langgraph"))
def langgraph_of_nodes(stage):
    from typing import TypedDict

    from langgraph.graph import END, START, StateGraph

    class State(TypedDict):
        question: str
        answer: str

    @mlflow.trace
    def helper(text):
        return text.upper()

    with logged(stage) as model:

        def think(state):
            return {"question": helper(state["question"])}

        def answer(state):
            return {"answer": model.invoke(state["question"]).content}

        graph = StateGraph(State)
        graph.add_node("think", think)
        graph.add_node("say", answer)
        graph.add_edge(START, "think")
        graph.add_edge("think", "say")
        graph.add_edge("say", END)
        return graph.compile().invoke({"question": "why?", "answer": ""})["answer"]


@program(needs=(*NEEDS, "langgraph"))
def langgraph_agent_with_a_tool(stage):
    from langchain.agents import create_agent

    with logged(stage) as model:
        agent = create_agent(model, [add_tool()], system_prompt="use the tool")
        given = {"messages": [{"role": "user", "content": "two and three?"}]}
        answer = agent.invoke(given)
        with mlflow.start_span("request"):
            mlflow.update_current_trace(tags={"kind": "agent"})
            list(agent.stream(given))
    return answer["messages"][-1].content
